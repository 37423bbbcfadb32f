"""What a bundle carries to run, test and check itself; kdeploy uses the same files."""
