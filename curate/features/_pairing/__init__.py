"""What finds pairs: members sent to their clusters or bands, then products or bits compared."""
