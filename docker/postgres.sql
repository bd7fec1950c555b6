-- Run once, when the volume is new. Studies are in the database that the image makes.
CREATE DATABASE mlflow;
