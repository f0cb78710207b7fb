"""What a run can do: one file a stage, each one readable loop, and the parts that stages share."""
