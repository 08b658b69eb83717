
/* A number of 16 bits (IEEE's binary16, finite). */
static float seam_half(uint16_t bits)
{
    union {
        uint32_t bits;
        float number;
    } made;
    made.bits = (uint32_t)(bits & 0x7FFF) << 13;
    made.number *= 0x1p112f; /* the exponent's bias is 127 in place of 15; numbers below 2^-14 come out right as well */
    made.bits |= (uint32_t)(bits & 0x8000) << 16;
    return made.number;
}
