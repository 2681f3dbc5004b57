"""`penstock demo`: a server, a pipeline, records, files and a query over them, in one command."""
