"""The grouped products of `grouped_experts` for Hopper, in Gluon: warps that copy feed warps that multiply.

A program stays on its multiprocessor and draws tiles from a counter, which the order's kernel has set to 0 before each
launch. Its producer (a warp group or one warp) fills stages of shared memory, its consumers (three warp groups of 64
lines each) multiply, as CUTLASS's warp-specialized persistent kernels do. Three consumers share each tile of weights,
which is 256 columns wide (in float8 128): with smaller tiles, reading from the L2 cache takes longer than the products.

A stage has two barriers. `full` ends a phase when the producer's copies into the stage are there, `empty` when all
consumers have released it. Nothing waits forever, whatever the experts: the producer fills the stages in turn, and each
consumer waits for each of them once and releases it once, in the same turn, also without lines in the tile. To release
a stage it needs the next one to be filled, or none at a tile's end (in float8 nowhere), and to fill that one the
producer needs only what was released a whole turn of stages before. Each number is drawn once, and one behind the last
tile ends the program.
"""
