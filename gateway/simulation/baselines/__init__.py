"""Published routing policies as we read their definitions: what the product is compared with, and never uses."""
