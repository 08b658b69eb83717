"""The command line, its reports and pictures. The only room that needs matplotlib."""
