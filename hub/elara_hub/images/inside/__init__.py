"""Programs that run inside an image, handed to its Python as text: they import nothing of the control plane."""
