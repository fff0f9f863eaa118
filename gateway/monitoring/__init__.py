"""What other programs watch the gateway with: Grafana dashboards and Prometheus alert rules, from its own metrics."""
