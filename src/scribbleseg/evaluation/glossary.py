"""The words of the report, each in a sentence: under the pointer where they stand, and at the page's end."""

GLOSSARY = {
    "Dice": "The overlap of two masks: twice the volume they share over the sum of both. 1 is the same mask, 0 nothing "
    "in common. Small and thin structures have lower ones at the same care.",
    "recall": "The share of the reference that is found.",
    "precision": "The share of what is found that is right.",
    "HD95": "95th percentile Hausdorff distance: how far apart the two surfaces are where they are farthest, but for "
    "the farthest 5 %; the larger of the two directions. 0 is best.",
    "ASSD": "Average symmetric surface distance: the mean distance over the surface voxels of both masks. 0 is best.",
    "volume error": "The prediction's volume minus the reference's.",
    "in empty slices": "The volume that is found in slices in which the reference has nothing of the structure.",
    "missed": "The reference has the structure and the prediction has not a voxel of it.",
    "invented": "The prediction has the structure and the reference has not a voxel of it.",
    "confused": "Prediction and reference have different structures there.",
    "reference": "The mask that predictions are compared with. Training from scribbles never sees it.",
    "scribbles": "The strokes that somebody drew; all that training is given besides the images.",
    "voxels drawn": "The share of the voxels of all training cases that have a scribble, on the grid of the training.",
    "seed areas": "What scribbles grow into before the first training: the pixels that they make nearly sure.",
    "recursion": "One round of training. Recursion 0 learns from the seed areas; before each later one the network "
    "relabels the training images.",
    "trained on": "The labels that a recursion learned from; pixels without colour had none.",
    "full supervision": "Training on the reference masks themselves: what training from scribbles is compared with.",
    "agreement with held-out scribbles": "The mean Dice over drawn pixels alone, in slices whose scribbles training "
    "did not see: the one figure that needs no mask.",
    "95 % interval": "From a bootstrap over paired cases (bias-corrected and accelerated): where the mean difference "
    "would lie if other cases of the same kind had been taken, 95 times in 100. It does not cover the luck of one "
    "training.",
}
"""Terms with their explanation."""

TUMOURS = {
    "WT": "The whole tumour: all of its structures together.",
    "TC": "The tumour core: the necrotic and the enhancing tumour, without the oedema.",
    "ET": "The enhancing tumour.",
    "WT*": "The whole tumour as the second network alone finds it, before it is merged with what the first one finds. "
    "It is in no mean.",
}
"""What the names of a brain tumour's parts mean."""
