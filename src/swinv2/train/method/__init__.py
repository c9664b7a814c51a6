"""What happens in a step: to the pictures, to the loss, and to the weights."""
