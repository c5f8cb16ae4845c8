"""Language models as the trainer uses them."""
