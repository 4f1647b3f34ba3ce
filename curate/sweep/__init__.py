"""One pipeline at many values: what each of them keeps, from stored columns alone."""
