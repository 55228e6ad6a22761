"""Speed on a GPU: a plan of cases, measured one by one in a process apart, within a time that is given."""
