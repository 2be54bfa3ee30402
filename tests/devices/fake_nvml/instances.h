/* Profiles, GPU instances, compute instances, and the MIG devices that jobs run on. */

/* ---- Profiles and placements of GPU instances ---------------------------------------------------------------------- */

struct profile_info { unsigned id, p2p, slices, most, sms, copy, decoders, encoders, jpeg, ofa; uint64_t memory_mb; };
struct profile_info_v2 {
    unsigned version, id, p2p, slices, most, sms, copy, decoders, encoders, jpeg, ofa;
    uint64_t memory_mb;
    char name[96];
};
struct placement { unsigned start, size; };

static const struct profile *row_by(const struct gpu *gpu, unsigned enumerated, unsigned id)
{
    const struct model *model = model_of(gpu);
    for (const struct profile *row = model->table; row < model->table + model->rows; row++)
        if (profile_name(model, row) && (row->enumerated == enumerated || row->id == id))
            return row;
    return NULL;
}

NVML(nvmlDeviceGetGpuInstanceProfileInfo, (handle h, unsigned enumerated, struct profile_info *info), (h, enumerated, info))
{
    NEED_MIG(gpu, h);
    NEED(info && enumerated < 0x11, INVALID_ARGUMENT); /* this driver is older than the newest profiles */
    const struct profile *row = row_by(gpu, enumerated, NONE);
    NEED(row, NOT_SUPPORTED);
    *info = (struct profile_info){.id = row->id, .slices = row->compute, .most = row->most, .sms = 14 * row->compute,
        .copy = row->compute, .jpeg = row->media, .ofa = row->media, .memory_mb = profile_memory_mb(model_of(gpu), row)};
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceProfileInfoV, (handle h, unsigned enumerated, struct profile_info_v2 *info),
     (h, enumerated, info))
{
    struct profile_info v1;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    result code = do_nvmlDeviceGetGpuInstanceProfileInfo(h, enumerated, &v1);
    NEED(code == SUCCESS, code);
    *info = (struct profile_info_v2){.version = info->version, .id = v1.id, .slices = v1.slices, .most = v1.most,
        .sms = v1.sms, .copy = v1.copy, .jpeg = v1.jpeg, .ofa = v1.ofa, .memory_mb = v1.memory_mb};
    struct gpu *gpu = device(h);
    snprintf(info->name, sizeof info->name, "MIG %s", profile_name(model_of(gpu), row_by(gpu, enumerated, NONE)));
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstancePossiblePlacements_v2, (handle h, unsigned id, struct placement *found, unsigned *count),
     (h, id, found, count))
{
    NEED_MIG(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    unsigned room = *count;
    *count = (unsigned)__builtin_popcount(row->starts);
    if (!found)
        return SUCCESS;
    NEED(room >= *count, INSUFFICIENT_SIZE);
    for (unsigned start = 0, n = 0; start < 8; start++)
        if (row->starts >> start & 1)
            found[n++] = (struct placement){start, row->size};
    return SUCCESS;
}

/* ---- GPU instances ----------------------------------------------------------------------------------------------- */

static unsigned mask(unsigned start, unsigned size) { return ((1u << size) - 1) << start; }

/* Memory slices taken; how many more of this profile other limits than slices allow: its maximum, the media engines. */
static unsigned taken(const struct gpu *gpu, const struct profile *row, unsigned *more)
{
    const struct profile *table = model_of(gpu)->table;
    unsigned slices = 0, engines = row->engines;
    *more = row->most;
    for (const struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++) {
        if (!gi->live)
            continue;
        slices |= mask(gi->start, gi->size);
        if (&table[gi->row] == row && *more)
            --*more;
        if (table[gi->row].media && row->media)
            *more = 0;
        engines += table[gi->row].engines;
    }
    if (engines > 4)
        *more = 0;
    return slices;
}

/* Numbers begin where hardware's do for that size, and the lowest free one is taken: numbers come again. */
static unsigned free_number(const struct gpu *gpu, const struct profile *row)
{
    unsigned number = row->size == 8 ? 0 : row->size == 4 ? 1 : row->size == 2 ? 3 : 7;
    for (unsigned again = 1; again;) {
        again = 0;
        for (const struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
            again |= gi->live && gi->id == number;
        number += again;
    }
    return number;
}

static result create(struct gpu *gpu, const struct profile *row, unsigned start, handle *made)
{
    unsigned more, slices = taken(gpu, row, &more);
    NEED(more && !(slices & mask(start, row->size)), INSUFFICIENT_RESOURCES);
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++) {
        if (gi->live)
            continue;
        *gi = (struct instance){.live = 1, .id = free_number(gpu, row), .row = (uint32_t)(row - model_of(gpu)->table),
            .start = start, .size = row->size, .generation = ++S->generation};
        snprintf(gi->profile, sizeof gi->profile, "%s", profile_name(model_of(gpu), row));
        *made = gpu_instance_handle(gpu, gi);
        return SUCCESS;
    }
    return INSUFFICIENT_RESOURCES;
}

NVML(nvmlDeviceCreateGpuInstanceWithPlacement, (handle h, unsigned id, const struct placement *where, handle *made),
     (h, id, where, made))
{
    NEED_MIG(gpu, h);
    NEED(where && made, INVALID_ARGUMENT);
    NEED_ROOT();
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    NEED(where->start < 8 && row->starts >> where->start & 1 && where->size == row->size, INVALID_ARGUMENT);
    return create(gpu, row, where->start, made);
}

NVML(nvmlDeviceCreateGpuInstance, (handle h, unsigned id, handle *made), (h, id, made))
{
    NEED_MIG(gpu, h);
    NEED(made, INVALID_ARGUMENT);
    NEED_ROOT();
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    for (int start = 7; start >= 0; start--)
        if (row->starts >> start & 1 && create(gpu, row, (unsigned)start, made) == SUCCESS)
            return SUCCESS;
    return INSUFFICIENT_RESOURCES;
}

NVML(nvmlDeviceGetGpuInstanceRemainingCapacity, (handle h, unsigned id, unsigned *count), (h, id, count))
{
    NEED_MIG(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    unsigned more, slices = taken(gpu, row, &more);
    *count = 0;
    for (unsigned start = 0; start < 8 && *count < more; start++)
        if (row->starts >> start & 1 && !(slices & mask(start, row->size))) {
            slices |= mask(start, row->size);
            ++*count;
        }
    return SUCCESS;
}

NVML(nvmlGpuInstanceDestroy, (handle h), (h))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi, INVALID_ARGUMENT);
    NEED_ROOT();
    for (unsigned i = 0; i < INSTANCES; i++)
        NEED(!gi->compute[i].live, IN_USE);
    memset(gi, 0, sizeof *gi);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstances, (handle h, unsigned id, handle *found, unsigned *count), (h, id, found, count))
{
    NEED_MIG(gpu, h);
    NEED(found && count, INVALID_ARGUMENT);
    const struct profile *row = row_by(gpu, NONE, id);
    NEED(row, NOT_SUPPORTED);
    *count = 0; /* says how many there are; the caller's array has room for the profile's maximum */
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
        if (gi->live && &model_of(gpu)->table[gi->row] == row)
            found[(*count)++] = gpu_instance_handle(gpu, gi);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceById, (handle h, unsigned id, handle *found), (h, id, found))
{
    NEED_MIG(gpu, h);
    NEED(found, INVALID_ARGUMENT);
    for (struct instance *gi = gpu->instances; gi < gpu->instances + INSTANCES; gi++)
        if (gi->live && gi->id == id) {
            *found = gpu_instance_handle(gpu, gi);
            return SUCCESS;
        }
    return NOT_FOUND;
}

struct instance_info { handle device; unsigned id, profile; struct placement where; };

NVML(nvmlGpuInstanceGetInfo, (handle h, struct instance_info *info), (h, info))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && info, INVALID_ARGUMENT);
    NEED(!S->gpu[gpu_of(h)].lost, GPU_IS_LOST);
    *info = (struct instance_info){make(DEVICE, 0, gpu_of(h), 0, 0), gi->id,
        model_of(&S->gpu[gpu_of(h)])->table[gi->row].id, {gi->start, gi->size}};
    return SUCCESS;
}

/* ---- Compute instances ------------------------------------------------------------------------------------------- */

struct compute_info { unsigned id, slices, most, sms, copy, decoders, encoders, jpeg, ofa; };
struct compute_info_v2 { unsigned version, id, slices, most, sms, copy, decoders, encoders, jpeg, ofa; char name[96]; };

static const struct profile *row_of(handle h) { return &model_of(&S->gpu[gpu_of(h)])->table[gpu_instance(h)->row]; }

/* Slices of a compute-instance profile in this GPU instance, 0 where it does not exist. Numbers and enums are alike here:
 * 0 to 4 are 1, 2, 3, 4, 7 slices, 7 is the one with media engines. A 4g takes no 3, as nvidia-smi mig -lcip lists. */
static unsigned slices_of(const struct profile *row, unsigned id)
{
    static const unsigned SLICES[] = {1, 2, 3, 4, 7};
    unsigned slices = id < 5 ? SLICES[id] : id == 7 && row->media ? 1 : 0;
    return slices > row->compute || (slices == 3 && row->compute == 4) ? 0 : slices;
}

static unsigned slices_taken(const struct instance *gi)
{
    unsigned slices = 0;
    for (unsigned i = 0; i < INSTANCES; i++)
        slices += gi->compute[i].live ? gi->compute[i].slices : 0;
    return slices;
}

NVML(nvmlGpuInstanceGetComputeInstanceProfileInfo, (handle h, unsigned id, unsigned engines, struct compute_info *info),
     (h, id, engines, info))
{
    NEED(gpu_instance(h) && info && id < 9 && engines == 0, INVALID_ARGUMENT);
    unsigned slices = slices_of(row_of(h), id);
    NEED(slices, NOT_SUPPORTED);
    *info = (struct compute_info){.id = id, .slices = slices, .most = row_of(h)->compute / slices, .sms = 14 * slices};
    return SUCCESS;
}

NVML(nvmlGpuInstanceGetComputeInstanceProfileInfoV,
     (handle h, unsigned id, unsigned engines, struct compute_info_v2 *info), (h, id, engines, info))
{
    struct compute_info v1;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    result code = do_nvmlGpuInstanceGetComputeInstanceProfileInfo(h, id, engines, &v1);
    NEED(code == SUCCESS, code);
    *info = (struct compute_info_v2){.version = info->version, .id = v1.id, .slices = v1.slices, .most = v1.most, .sms = v1.sms};
    snprintf(info->name, sizeof info->name, "MIG %uc.%s", v1.slices, gpu_instance(h)->profile);
    return SUCCESS;
}

/* A MIG device takes the lowest free index and keeps it while others go. */
static void appear(struct gpu *gpu, unsigned gi, unsigned ci)
{
    for (struct mig *mig = gpu->mig; mig < gpu->mig + INSTANCES; mig++)
        if (!mig->live) {
            *mig = (struct mig){1, gi, ci, ++S->generation};
            return;
        }
}

NVML(nvmlGpuInstanceCreateComputeInstance, (handle h, unsigned id, handle *made), (h, id, made))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && made, INVALID_ARGUMENT);
    NEED_ROOT();
    unsigned slices = slices_of(row_of(h), id), start = slices_taken(gi), number = 0, slot = 0;
    NEED(slices, NOT_SUPPORTED);
    NEED(start + slices <= row_of(h)->compute, INSUFFICIENT_RESOURCES);
    for (unsigned i = 0; i < INSTANCES; i++) /* at most 8 numbers are taken: 8 rounds find the lowest free one */
        for (unsigned j = 0; j < INSTANCES; j++)
            number += gi->compute[j].live && gi->compute[j].id == number;
    while (gi->compute[slot].live)
        slot++;
    gi->compute[slot] = (struct compute){1, number, slices, start, ++S->generation};
    *made = make(COMPUTE_INSTANCE, gi->compute[slot].generation, gpu_of(h), slot_of(h), slot);
    appear(&S->gpu[gpu_of(h)], gi->id, number);
    return SUCCESS;
}

NVML(nvmlComputeInstanceDestroy, (handle h), (h))
{
    struct compute *ci = compute_instance(h);
    NEED(ci, INVALID_ARGUMENT);
    NEED_ROOT();
    struct gpu *gpu = &S->gpu[gpu_of(h)];
    unsigned gi = gpu->instances[slot_of(h)].id;
    NEED(!runs_in(gpu, gi, ci->id), IN_USE);
    for (struct mig *mig = gpu->mig; mig < gpu->mig + INSTANCES; mig++)
        if (mig->live && mig->gi == gi && mig->ci == ci->id)
            memset(mig, 0, sizeof *mig);
    memset(ci, 0, sizeof *ci);
    return SUCCESS;
}

/* The profile with media engines lists what the plain one of one slice lists: callers must not count twice. */
NVML(nvmlGpuInstanceGetComputeInstances, (handle h, unsigned id, handle *found, unsigned *count), (h, id, found, count))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && found && count, INVALID_ARGUMENT);
    unsigned slices = slices_of(row_of(h), id);
    NEED(slices, NOT_SUPPORTED);
    *count = 0;
    for (unsigned i = 0; i < INSTANCES; i++)
        if (gi->compute[i].live && gi->compute[i].slices == slices)
            found[(*count)++] = make(COMPUTE_INSTANCE, gi->compute[i].generation, gpu_of(h), slot_of(h), i);
    return SUCCESS;
}

NVML(nvmlGpuInstanceGetComputeInstanceById, (handle h, unsigned id, handle *found), (h, id, found))
{
    struct instance *gi = gpu_instance(h);
    NEED(gi && found, INVALID_ARGUMENT);
    for (unsigned i = 0; i < INSTANCES; i++)
        if (gi->compute[i].live && gi->compute[i].id == id) {
            *found = make(COMPUTE_INSTANCE, gi->compute[i].generation, gpu_of(h), slot_of(h), i);
            return SUCCESS;
        }
    return NOT_FOUND;
}

struct compute_instance_info { handle device, gpu_instance; unsigned id, profile; struct placement where; };

NVML(nvmlComputeInstanceGetInfo_v2, (handle h, struct compute_instance_info *info), (h, info))
{
    struct compute *ci = compute_instance(h);
    NEED(ci && info, INVALID_ARGUMENT);
    struct gpu *gpu = &S->gpu[gpu_of(h)];
    NEED(!gpu->lost, GPU_IS_LOST);
    *info = (struct compute_instance_info){make(DEVICE, 0, gpu_of(h), 0, 0),
        gpu_instance_handle(gpu, &gpu->instances[slot_of(h)]), ci->id, ci->slices == 7 ? 4 : ci->slices - 1,
        {ci->start, ci->slices}};
    return SUCCESS;
}

/* ---- MIG devices: what jobs run on ------------------------------------------------------------------------------- */

NVML(nvmlDeviceGetMaxMigDeviceCount, (handle h, unsigned *count), (h, count))
{
    NEED_GPU(gpu, h);
    NEED(count, INVALID_ARGUMENT);
    *count = !gpu->current ? 0 : model_of(gpu)->slices == 4 ? 4 : 7;
    return SUCCESS;
}

NVML(nvmlDeviceGetMigDeviceHandleByIndex, (handle h, unsigned index, handle *found), (h, index, found))
{
    NEED_MIG(gpu, h);
    NEED(found && index < INSTANCES, INVALID_ARGUMENT);
    NEED(gpu->mig[index].live, NOT_FOUND);
    *found = make(MIG_DEVICE, gpu->mig[index].generation, gpu_of(h), index, 0);
    return SUCCESS;
}

NVML(nvmlDeviceIsMigDeviceHandle, (handle h, unsigned *is), (h, is))
{
    NEED(device(h) && is, INVALID_ARGUMENT);
    *is = h >> 56 == MIG_DEVICE;
    return SUCCESS;
}

NVML(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, (handle h, handle *parent), (h, parent))
{
    NEED(mig_device(h) && parent, INVALID_ARGUMENT);
    *parent = make(DEVICE, 0, gpu_of(h), 0, 0);
    return SUCCESS;
}

NVML(nvmlDeviceGetGpuInstanceId, (handle h, unsigned *id), (h, id))
{
    NEED(mig_device(h) && id, INVALID_ARGUMENT);
    *id = mig_device(h)->gi;
    return SUCCESS;
}

NVML(nvmlDeviceGetComputeInstanceId, (handle h, unsigned *id), (h, id))
{
    NEED(mig_device(h) && id, INVALID_ARGUMENT);
    *id = mig_device(h)->ci;
    return SUCCESS;
}
