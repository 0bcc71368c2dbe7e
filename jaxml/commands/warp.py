"""`jaxml warp`: transforms of any tool applied to the user's images, labels and landmarks."""

from pathlib import Path

from jaxml.commands.terminal import add_max_gib, integer, path, say

ORDER = (
    "Transforms stand as for antsApplyTransforms: the first is applied first to the points of the "
    "fixed image (a warp, then the affine), and inverse:FILE stands for the inverse of one."
)


def add_parser(commands) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "warp",
        usage="jaxml warp TRANSFORM... (IMAGE | --points FILE) [options]",
        description=f"Apply transforms of jaxml, ITK or ANTs to an image or to landmarks. {ORDER}",
        help="apply transforms of jaxml, ITK or ANTs to images, labels or landmarks",
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=path,
        metavar="FILE",
        help="transforms (affines .mat, .txt, .tfm; fields .nii.gz, .nrrd, .mha or fields.npz), "
        "then the moving image",
    )
    parser.add_argument(
        "--onto",
        type=path,
        metavar="FILE",
        help="image whose grid the result has (default: the grid of the first transform)",
    )
    parser.add_argument(
        "--labels", action="store_true", help="the image holds labels: take the nearest one"
    )
    parser.add_argument(
        "--vote",
        action="store_true",
        help="the image holds labels: take the one with the most weight in a Gaussian of one voxel "
        "around the point, as sitkLabelGaussian of SimpleITK; borders are smoother",
    )
    parser.add_argument(
        "--volume", type=integer, help="which image of IMAGE, from 0, where it has several"
    )
    parser.add_argument(
        "--points",
        type=path,
        metavar="FILE",
        help="in place of IMAGE: csv with columns x, y and z of points of the fixed image, in mm "
        "as ITK has them (LPS; pixels for fields.npz), which are moved to the moving image",
    )
    parser.add_argument("--out", type=path, default=Path("runs/warp"), metavar="DIR")
    add_max_gib(parser)
    parser.set_defaults(run=run, less="images of fewer voxels")


def run(args) -> None:
    """Apply the transforms."""
    from jaxml.commands.warp_files import warp_files, warp_points

    if args.points is not None:
        say(warp_points(args.files, args.points, args.out, max_bytes=args.max_bytes))
        return
    names = ("onto", "labels", "vote", "volume", "max_bytes")
    settings = {name: getattr(args, name) for name in names}
    *transforms, image = args.files
    say(warp_files(transforms, image, args.out, **settings))
