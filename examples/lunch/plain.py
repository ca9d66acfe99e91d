"""A script that knows nothing of Sexton: `sexton run -- python plain.py` records it all the same."""

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB

features, labels = load_breast_cancer(return_X_y=True)
scores = cross_val_score(GaussianNB(), features, labels, cv=10)
print(f"naive Bayes on breast-cancer: accuracy {scores.mean():.3f} +- {scores.std():.3f} over {len(scores)} folds")
