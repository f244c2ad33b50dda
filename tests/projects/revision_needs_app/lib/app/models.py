import app

if not app.ready:
    raise RuntimeError("the application is not set up")

apples = app.apples
