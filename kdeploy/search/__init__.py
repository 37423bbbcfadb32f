"""Find the best recipe for constraints: many candidates, one store, the device in the loop."""
