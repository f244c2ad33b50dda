raise RuntimeError("the app cannot start: no SECRET_KEY")
