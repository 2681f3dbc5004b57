"""How much happens in a run that is not told: enough to see each kind of trouble, in about a minute and a half."""

KILLS = 32
#: Changes of settings.
UPDATES = 8
#: Of the S3 server.
OUTAGES = 3
