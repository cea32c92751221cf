"""Images from addresses that strangers wrote: web servers, object stores and files, each only where a setting allows.

The base install imports none of the libraries: httpcore2 and obstore come with the extra `fetch`.
"""
