"""A payment gateway for HTTP APIs, made of mitmproxy addons."""

__version__ = "0.1.0"
