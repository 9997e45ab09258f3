"""Monitoring: dashboards as code, alert rules, and the configuration of Prometheus and Grafana."""
