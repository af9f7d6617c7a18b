"""Container images: what to build in which order, how builds reach packages, bills of materials, checks inside."""
