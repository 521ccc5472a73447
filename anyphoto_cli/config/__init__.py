"""What can be set: one frozen pydantic model a stage; each key's description is also its documentation."""
