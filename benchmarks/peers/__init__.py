"""Other ways to serve the same model, each a program: what a contestant runs.

They take PORT and MODEL_FOLDER (an artifact tree) from the environment and answer `POST
/recommend` and `POST /recommend-batch` like the serving container; no API key is checked.
"""
