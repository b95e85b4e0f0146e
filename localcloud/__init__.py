"""Google Cloud on one machine: the services Turnout uses, on loopback, over their own protocols.

A folder a service: what it keeps (state), how it is spoken to (transport). Everything a
client was told is done is on disk first. What is not supported fails with its name.
"""
