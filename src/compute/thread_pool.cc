// placeholder until its owner's first version
