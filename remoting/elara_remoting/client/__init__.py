"""The remoting client: what makes the devices of an attachment appear as PyTorch's CUDA devices."""
