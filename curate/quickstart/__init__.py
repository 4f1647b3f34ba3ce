"""The quickstart: drawn pictures with planted defects, and the small CLIP that scores them."""
