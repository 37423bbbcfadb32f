"""Write a model as a file that another program runs, with a parity gate."""
