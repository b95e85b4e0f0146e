"""A two-tower recommender trained on MovieLens latest-small: users are customers, movies products.

    data.py       the ratings, the time-ordered split, the catalogue's features
    histories.py  who took what in which order; the training examples cut out of it
    model.py      the two towers (Keras)
    baselines.py  popularity and item-kNN
    evaluate.py   Recall@k, asked as the endpoint is asked
    export.py     the SavedModel
    train.py      one run, from the data to the artifact folder
    upload.py     the artifact folder to the training bucket
    message.py    the training-completed message
    publish.py    upload, then message

Only model.py and export.py import TensorFlow, and they are imported when training starts.
"""
