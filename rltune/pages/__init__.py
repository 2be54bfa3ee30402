"""What the inspector and the service's dashboard share: static files of the package, and the headers that pages go with."""
