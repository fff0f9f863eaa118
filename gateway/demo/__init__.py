"""The demo: a simulated fleet, a workload, and a comparison of policies over real sockets."""
