"""What commands and the editor do: find, edit, paint, evaluate; files in, files out."""
