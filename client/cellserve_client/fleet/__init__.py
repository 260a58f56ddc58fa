"""The replicas behind one connection: which of them a request goes to, and where it goes when that one is away."""

from cellserve_client.fleet.fleet import Fleet
from cellserve_client.fleet.made_models import MadeModel
from cellserve_client.fleet.pursuit import Pursuit
from cellserve_client.fleet.replica import Replica
from cellserve_client.fleet.routes import Anywhere, Route, Way
from cellserve_client.fleet.spread import Place, Spread

__all__ = ["Anywhere", "Fleet", "MadeModel", "Place", "Pursuit", "Replica", "Route", "Spread", "Way"]
