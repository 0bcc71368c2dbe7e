# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Registration without folds
#
# A registration moves each voxel p of one image to p + u(p) of another. Where the determinant of
# the Jacobian of p + u(p) is not positive, space folds over itself: two places of the body land
# on one. Networks and loosely regularized optimization leave such folds. This notebook counts
# them by several criteria, passes a field through the diffeomorphic layer, projects it to a
# field without any fold, takes a gradient through the projection, and registers two images.
# Everything is 2-D here so that it can be looked at; the same calls take `[D, H, W, 3]`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxml import registration

SIZE = 96
SCHEMES = ("forward", "backward", "central", "digital")


def smooth(image, width):
    """Gaussian smoothing along both axes."""
    t = jnp.arange(-3 * width, 3 * width + 1)
    weights = jnp.exp(-0.5 * (t / width) ** 2)
    weights = weights / weights.sum()
    along = jax.vmap(lambda row: jnp.convolve(row, weights, mode="same"))
    return along(along(image).T).T


def counts(u):
    """Folds by each criterion."""
    return "  ".join(f"{s} {int(registration.count_folds(u, scheme=s))}" for s in SCHEMES)


# %% [markdown]
# ## A pair of images, and a field that folds
#
# The fixed image is a slice through a made-up head. A smooth field, drawn at random and strong
# enough to fold in places, makes the moving image out of it. In the picture below the lines of
# the grid cross where the field folds.

# %%
row, column = (np.linspace(-1, 1, SIZE)[:, None], np.linspace(-1, 1, SIZE)[None, :])
ellipse = lambda y, x, b, a: jax.nn.sigmoid(
    30 * (1 - jnp.sqrt(((row - y) / b) ** 2 + ((column - x) / a) ** 2))
)
fixed = (
    0.35 * ellipse(0, 0, 0.85, 0.7)
    + 0.3 * ellipse(0, 0, 0.7, 0.55)
    - 0.4 * (ellipse(-0.05, -0.17, 0.3, 0.1) + ellipse(-0.05, 0.17, 0.3, 0.1))
    + 0.3 * (ellipse(0.4, -0.25, 0.12, 0.15) + ellipse(0.4, 0.25, 0.12, 0.15))
)
noise = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE))
fade = (1 - row**4) * (1 - column**4)
u = jnp.stack([smooth(n, 5) * fade for n in noise], axis=-1)
u = 2.0 * u / u.std()
moving = registration.warp(fixed, u)


def draw_grid(axes, u, title):
    """Every third line of the grid after the field; folds in red."""
    place = np.asarray(u) + np.stack(np.mgrid[:SIZE, :SIZE], axis=-1)
    for k in range(0, SIZE, 3):
        axes.plot(place[k, :, 1], place[k, :, 0], "k", lw=0.4)
        axes.plot(place[:, k, 1], place[:, k, 0], "k", lw=0.4)
    folded = np.asarray(registration.min_jacobian_determinant(u)) <= 0
    axes.plot(place[folded][:, 1], place[folded][:, 0], "r.", ms=2)
    axes.set(title=title, aspect="equal", xticks=[], yticks=[], ylim=(SIZE + 6, -7))


figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for panel, image, title in zip(axes, (fixed, moving), ("fixed", "moved by u"), strict=False):
    panel.imshow(image, cmap="gray", vmin=0, vmax=1)
    panel.set(title=title, xticks=[], yticks=[])
draw_grid(axes[2], u, "the grid after u, folds in red")
plt.show()

# %% [markdown]
# ## How many folds?
#
# It depends on the differences. Forward, backward and central differences each see other folds,
# and each of them misses some. The digital criterion of Liu et al. looks at all triangles
# (tetrahedra in 3-D) that a pixel spans with its neighbours: where it finds nothing, none of the
# others does. A number of folds means little without the name of its criterion.

# %%
print("the field:", counts(u))

# %% [markdown]
# ## The diffeomorphic layer
#
# The matrix exponential of the Jacobian has a positive determinant everywhere. The layer returns
# the field whose Laplacian is the divergence of that exponential, by one Poisson solve. The
# exponential is not the gradient of any field, though, so that the result has fewer folds, not
# none, and lies a good way off the field that went in. Its place is at the end of a network in
# training, with `layer_residual` to pull the network to fields that the layer hardly changes. It
# does not repair a field that is there already.

# %%
relative = lambda v: float(jnp.linalg.norm(v - u) / jnp.linalg.norm(u))
layer = registration.diffeomorphic_layer(u)
print("after the layer:", counts(layer.displacement))
print(f"relative change: {relative(layer.displacement):.3f}")
print(f"smallest det of the exponential: {jnp.linalg.det(layer.exponential).min():.3f}")
print(f"residual of the layer: {registration.layer_residual(layer):.3f}")

# %% [markdown]
# ## The nearest field without folds
#
# `fold_free` moves the corners of folded triangles as little as it can until all determinants
# are at least epsilon. Away from folds the field stays as it is. `folds` is counted at the end,
# on the field returned: 0 is a result that was checked, not a hope.

# %%
free = registration.fold_free(u)
print("after fold_free:", counts(free.displacement))
print(f"iterations: {free.iterations}, left: {free.folds}")
print(f"relative change: {relative(free.displacement):.4f}")
untouched = jnp.all(free.displacement == u, axis=-1).mean()
print(f"pixels that did not change at all: {100 * untouched:.0f}%")

figure, axes = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
fields = {"u": u, "after the layer": layer.displacement, "after fold_free": free.displacement}
for (name, field), (above, below) in zip(fields.items(), axes.T, strict=True):
    draw_grid(above, field, name)
    determinant = registration.min_jacobian_determinant(field)
    shown = below.imshow(determinant, cmap="RdBu", vmin=-1, vmax=1)
    title = f"smallest determinant: {float(determinant.min()):.2f} and up"
    below.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[1], shrink=0.8, label="determinant, below 0: folded")
plt.show()

# %% [markdown]
# ## A gradient through the projection
#
# The projection is a loop of unknown length, and still has a derivative: the backward pass runs
# the iterations again, last first. So it can stand inside of a loss, here the misfit of two
# images after the projection. A small step along the gradient does what it promises.


# %%
def misfit(field):
    """Misfit of the moving image, warped by the field without folds, to the fixed one."""
    return registration.mse(fixed, registration.warp(moving, project(field)))


project = lambda field: registration.fold_free(field).displacement
value_and_slope = jax.jit(jax.value_and_grad(misfit))
value, slope = value_and_slope(u)
step = -0.1 * slope / jnp.linalg.norm(slope)
got = value_and_slope(u + step)[0] - value
print(f"misfit {value:.2e}: promised {jnp.vdot(slope, step):.2e}, got {got:.2e}")

# %% [markdown]
# ## There and back
#
# `inverse` gives the way back, and `inverse_consistency` what is left of each pixel's position
# after both ways. From a fold there is no way back: pixels that land on one place cannot all
# return. Without folds they can, and the inverse is exact to rounding.

# %%
for name, field in {"u": u, "fold_free(u)": free.displacement}.items():
    left = registration.inverse_consistency(field, registration.inverse(field))
    print(f"{name}: {(left > 0.05).sum()} pixels off by more than .05, largest {left.max():.1e}")

# %% [markdown]
# ## Registration
#
# `register` finds a field for a pair of images by optimisation from coarse to fine, without any
# training; `affine=None`, as neither image is turned here. Both images have the same contrast, so
# that the mean square is the loss; `ncc`, the default, is for scans. With `method="energy"` a fixed
# image made without folds is matched all but exactly by a field with folds: images do not tell.
# With `projection="fold_free"`, the default, it is matched nearly as well by a field without any.

# %%
target = registration.warp(fixed, project(0.8 * u))
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
print(f"before: mse {registration.mse(target, fixed):.1e}")
for panel, projection in zip(axes[1:], (None, "fold_free"), strict=True):
    settings = {"similarity": registration.mse, "smoothness": 1e-3, "method": "energy"}
    result = registration.register(target, fixed, affine=None, projection=projection, **settings)
    off = registration.mse(target, result.moved)
    print(f"projection={projection}: mse {off:.1e}; {counts(result.displacement)}")
    draw_grid(panel, result.displacement, f"projection={projection}")
axes[0].imshow(result.moved, cmap="gray", vmin=0, vmax=1)
axes[0].set(title="moved image, without folds", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## From anywhere
#
# Scans do not lie on each other. `register` begins with an affine map from a search over rotations
# all around; the field comes before it, and the image is read once through both. Here the moving
# image is turned by 50 degrees and of another shape, and its contrast is inverted, which the
# mutual information does not mind.

# %%
angle = jnp.deg2rad(50)
turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
middle = jnp.array(fixed.shape) / 2
wide = jnp.zeros((fixed.shape[0] + 40, fixed.shape[1] + 60, 2))
back = jnp.concatenate([turn, (middle - turn @ (middle + jnp.array([20, 30])))[:, None]], axis=1)
elsewhere = registration.warp(jnp.where(fixed > 0.02, 1.02 - fixed, 0), wide, affine=back)
result = registration.register(target, elsewhere, similarity="mi")
both = {"u": result.displacement, "affine": result.affine}
moved = registration.warp(registration.warp(fixed, wide, affine=back), **both)
print(f"mse {registration.mse(target, moved):.1e} once the contrast is turned back")
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for panel, (name, image) in zip(
    axes, {"fixed": target, "moving": elsewhere, "moved": result.moved}.items(), strict=True
):
    panel.imshow(image, cmap="gray", vmin=0, vmax=1)
    panel.set(title=name, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## A likeness of your own
#
# `similarity` is any function of the fixed and the moved image to a number that falls as they get
# alike. Here the moving image comes from another scanner: what was bright is dark. The mean square
# pulls bright onto bright and leads astray. Normalized gradient fields (Haber and Modersitzki,
# 2006) ask for edges in the same places and in parallel, whichever side is the bright one.


# %%
def edges(fixed, moved, floor=0.02):
    """1 minus the mean squared cosine of the angle between both gradients."""
    a, b = (jnp.stack(jnp.gradient(image), axis=-1) for image in (fixed, moved))
    length = lambda gradient: jnp.sum(gradient**2, axis=-1) + floor**2
    return 1 - jnp.mean(jnp.sum(a * b, axis=-1) ** 2 / (length(a) * length(b)))


scan = 1 - fixed
print(f"before: mse {registration.mse(target, fixed):.1e}")
for name, similarity, smoothness in (("mse", registration.mse, 1e-3), ("edges", edges, 0.05)):
    result = registration.register(
        target, scan, affine=None, similarity=similarity, smoothness=smoothness
    )
    off = registration.mse(target, registration.warp(fixed, result.displacement))
    print(f"{name}: mse {off:.1e} once the contrast is turned back")
