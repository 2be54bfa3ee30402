/* What GPUs exist, and what each can be cut into: a table written from NVIDIA's listings (nvidia-smi mig -lgipp on A30,
 * A100, H100 80GB, RTX PRO 6000; H200, B200, B300 by equal fractions), on purpose without looking at rltune's. */

/* enumerated: NVML_GPU_INSTANCE_PROFILE_*; id: what calls take; starts: bit per legal memory slice; media: holds the one
 * set of media engines; names: of A100-40GB, of 80 GB types, H200, B200, B300; NULL: not there; engines: decoders, encoders
 * and JPEG units, of which RTX PRO 6000 has four each. */
struct profile { unsigned enumerated, id, compute, size, starts, most, media; const char *names[5]; unsigned engines; };

static const struct profile SEVEN[] = {
    {0x0, 19, 1, 1, 0x7F, 7, 0, {"1g.5gb", "1g.10gb", "1g.18gb", "1g.23gb", "1g.34gb"}, 0},
    {0x1, 14, 2, 2, 0x15, 3, 0, {"2g.10gb", "2g.20gb", "2g.35gb", "2g.45gb", "2g.67gb"}, 0},
    {0x2, 9, 3, 4, 0x11, 2, 0, {"3g.20gb", "3g.40gb", "3g.71gb", "3g.90gb", "3g.135gb"}, 0},
    {0x3, 5, 4, 4, 0x01, 1, 0, {"4g.20gb", "4g.40gb", "4g.71gb", "4g.90gb", "4g.135gb"}, 0},
    {0x4, 0, 7, 8, 0x01, 1, 0, {"7g.40gb", "7g.80gb", "7g.141gb", "7g.180gb", "7g.269gb"}, 0},
    {0x7, 20, 1, 1, 0x7F, 1, 1, {"1g.5gb+me", "1g.10gb+me", "1g.18gb+me", "1g.23gb+me", "1g.34gb+me"}, 0},
    {0x9, 15, 1, 2, 0x55, 4, 0, {"1g.10gb", "1g.20gb", "1g.35gb", "1g.45gb", "1g.67gb"}, 0},
};
static const struct profile FOUR[] = {
    {0x0, 14, 1, 1, 0xF, 4, 0, {"1g.6gb"}, 0},
    {0x1, 5, 2, 2, 0x5, 2, 0, {"2g.12gb"}, 0},
    {0x3, 0, 4, 4, 0x1, 1, 0, {"4g.24gb"}, 0},
    {0x7, 21, 1, 1, 0xF, 1, 1, {"1g.6gb+me"}, 0},
    {0x8, 6, 2, 2, 0x5, 1, 1, {"2g.12gb+me"}, 0},
};
static const struct profile PRO[] = {
    {0x0, 14, 1, 1, 0xF, 4, 0, {"1g.24gb"}, 1},
    {0x1, 5, 2, 2, 0x5, 2, 0, {"2g.48gb"}, 2},
    {0x3, 0, 4, 4, 0x1, 1, 0, {"4g.96gb"}, 4},
    {0x7, 21, 1, 1, 0xF, 1, 1, {"1g.24gb+me"}, 1},
    {0xA, 47, 1, 1, 0xF, 4, 0, {"1g.24gb+gfx"}, 1},
    {0xB, 35, 2, 2, 0x5, 2, 0, {"2g.48gb+gfx"}, 2},
    {0xC, 32, 4, 4, 0x1, 1, 0, {"4g.96gb+gfx"}, 4},
    {0xD, 67, 1, 1, 0xF, 4, 0, {"1g.24gb-me"}, 0},
    {0xE, 66, 2, 2, 0x5, 2, 0, {"2g.48gb-me"}, 0},
    {0xF, 65, 1, 1, 0xF, 1, 1, {"1g.24gb+me.all"}, 4},
    {0x10, 64, 2, 2, 0x5, 1, 1, {"2g.48gb+me.all"}, 4},
};
#define ROWS(table) (unsigned)(sizeof table / sizeof *table)

struct model { const char *key, *name; unsigned pci, memory_mb, slices, column; const struct profile *table; unsigned rows; };

static const struct model MODELS[] = {
    {"A30", "NVIDIA A30", 0x20B710DE, 24576, 4, 0, FOUR, ROWS(FOUR)},
    {"A100-40GB", "NVIDIA A100-SXM4-40GB", 0x20B010DE, 40960, 8, 0, SEVEN, ROWS(SEVEN)},
    {"A100-80GB", "NVIDIA A100-SXM4-80GB", 0x20B210DE, 81920, 8, 1, SEVEN, ROWS(SEVEN)},
    {"H100-80GB", "NVIDIA H100 80GB HBM3", 0x233010DE, 81559, 8, 1, SEVEN, ROWS(SEVEN)},
    {"H200-141GB", "NVIDIA H200", 0x233510DE, 143771, 8, 2, SEVEN, ROWS(SEVEN)},
    {"B200", "NVIDIA B200", 0x290110DE, 183359, 8, 3, SEVEN, ROWS(SEVEN)},
    {"B300", "NVIDIA B300 SXM6 AC", 0x318210DE, 275040, 8, 4, SEVEN, ROWS(SEVEN)},
    {"RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 0x2BB510DE, 97887, 4, 0, PRO, ROWS(PRO)},
    {"V100", "Tesla V100-SXM2-16GB", 0x1DB110DE, 16384, 0, 0, NULL, 0}, /* no MIG at all */
};

static const char *profile_name(const struct model *model, const struct profile *profile)
{
    return profile->names[model->column];
}

/* MiB; a little less than the fraction of the GPU, as on hardware. */
static uint64_t profile_memory_mb(const struct model *model, const struct profile *profile)
{
    return (uint64_t)model->memory_mb * profile->size / model->slices - 64;
}
