"""Benchmarks: ``python -m bench NAME``; every figure beside a rival's or a limit's, in one run.

Read in this order:

* ``harness``: how a benchmark runs and what its result says. The rules are there.
* ``failover``: from SIGKILL of the leader to the next acknowledged write. Rival: etcd.
* ``download``: one peer to one peer. Limit: a plain ``sendfile`` copy over loopback.
* ``etcd``: the rival of ``failover``, driven through its JSON gateway.
* ``hashing``: from a path to a manifest. Limit: SHA-256 of the same pieces.
* ``tls``, ``tls_ends``: a piece link with TLS. Limit: the same in the clear.
* ``children``, ``ends``: the processes of ``download``, the parent's side and the child's.
"""
