"""Routing: from a request's method and raw target to a service, a route and an upstream target."""

from mpp_gateway.routing.table import Match, Preflight, RouteTable
from mpp_gateway.routing.target import Target, parse_target

__all__ = ["Match", "Preflight", "RouteTable", "Target", "parse_target"]
