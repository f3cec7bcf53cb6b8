pytest_plugins = ["genref._site.claims"]
