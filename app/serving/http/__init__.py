"""The HTTP interface: application, authentication, problem documents and the access log."""
