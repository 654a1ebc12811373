"""Files that say what is sent or when: data of the user's own and recorded arrivals."""
