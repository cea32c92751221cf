"""Grafana's dashboard, made from Python: `python -m deploy.grafana` writes deploy/grafana/dashboards/vqa.json."""
