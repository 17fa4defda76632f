"""What all of the package needs: tables and labels of users, files, checks of arguments, the state of models."""
