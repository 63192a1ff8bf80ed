"""The piece-exchange peer: shares files and directories, and fetches them from many at once.

::

    from peer import Peer, fetch, share

    with share("model.bin", "models/a", trackers=["127.0.0.1:7001"]):
        ...                                             # served as long as the block runs
    fetch("models/a", "copy.bin", trackers=["127.0.0.1:7001"])

The rooms, in the order to read them:

* :mod:`peer.swarm`: the brain of a download: facts in, :mod:`peer.decisions` out;
  :mod:`peer.picker`: which pieces next, by :mod:`peer.availability`; :mod:`peer.claims`: who was
  asked for what; :mod:`peer.rescue`: what is taken over from slow peers; :mod:`peer.rates`: who
  is slow. :mod:`peer.choice`: whom to be connected to; :mod:`peer.contacts`: who may be. Pure.
* :mod:`peer.manifest`: what a file or a tree is; its hash is the content id.
  :mod:`peer.pieces` numbers the pieces, :mod:`peer.ranges` keeps sets of such numbers. Pure.
* :mod:`peer.messages`: what peers say to each other; :mod:`peer.link`: over what.
* :mod:`peer.downloader`: carries out a download; :mod:`peer.crew`: all its connections;
  :mod:`peer.source`: one of them; :mod:`peer.seams`: what it needs of others;
  :mod:`peer.store`: pieces on disk, in a :mod:`peer.partial` until all are there;
  :mod:`peer.resume`: which are there already; :mod:`peer.destination`: where they may go;
  :mod:`peer.selection`: which part of a tree is wanted.
* :mod:`peer.seeder`: serves pieces; :mod:`peer.upload`: one connection of it;
  :mod:`peer.offers`: who is told of new ones; :mod:`peer.slots`, :mod:`peer.throttle`: how many
  and how fast; :mod:`peer.shared`: of what; :mod:`peer.scan`: from a path
  to a manifest; :mod:`peer.hash_cache`: without reading it again; :mod:`peer.lease`: tells the
  trackers; :mod:`peer.watch`: is it still the same; :mod:`peer.serving`: all of these together;
  :mod:`peer.sharing`: served and published, one content or many at once.
* :mod:`peer.node`: puts it together: :class:`Peer`; :mod:`peer.reader`: a content as a file
  object; :mod:`peer.functions`: :func:`share`, :func:`fetch`, :func:`open`.
* :mod:`peer.cli`: the commands; :mod:`peer.downloads`: which downloads run on this host;
  :mod:`peer.follow`: which version to have now.
"""

from __future__ import annotations

import tracker_raft.interrupt  # noqa: F401 before all others: it says why
from peer.downloader import Cancelled, Download, NoSource
from peer.functions import fetch, open, share
from peer.limits import PeerLimits
from peer.manifest import FileEntry, Kind, Link, Manifest
from peer.node import Peer
from peer.progress import Fetched, Progress
from peer.sharing import Shared

__all__ = [
    "Cancelled",
    "Download",
    "Fetched",
    "FileEntry",
    "Kind",
    "Link",
    "Manifest",
    "NoSource",
    "Peer",
    "PeerLimits",
    "Progress",
    "Shared",
    "fetch",
    "open",
    "share",
]
