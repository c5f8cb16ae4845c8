"""How a model is sharded and stepped: engines, the processes of a run, and their launcher."""
