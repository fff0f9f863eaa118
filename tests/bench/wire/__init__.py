"""What the gateway costs on the wire: a cheap upstream, a load generator and the kernel's accounts of the routers."""
