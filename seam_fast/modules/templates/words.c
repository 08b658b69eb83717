
int seam_words(const char *text, size_t length, seam_word *words, int most)
{
    seam_reader reader = {0};
    reader.words = words;
    reader.most = most;
    if (most > 0)
        seam_split(&reader, (const unsigned char *)text, length);
    return reader.count;
}
