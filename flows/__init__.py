"""Prefect flows and the command line: names, schedules, retries; every task body is one call."""
