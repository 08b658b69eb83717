
#ifdef SEAM_MAIN

#include <stdio.h>
#include <time.h>

/* Prints the probability of each line of standard input. With --time also how long a text took, on standard error. */
int main(int count, char **arguments)
{
    static char line[1 << 20];
    int timed = count == 2 && arguments[1][0] == '-' && arguments[1][1] == '-' && arguments[1][2] == 't';
    if (count > 1 + timed) {
        fprintf(stderr, "usage: %s [--time]   (each line of standard input is a text)\n", arguments[0]);
        return 2;
    }
    double ticks = 0;
    long texts = 0;
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
        size_t length = 0;
        for (; byte != EOF && byte != '\n'; byte = getchar()) {
            if (length == sizeof line) {
                fprintf(stderr, "line %ld is longer than %lu bytes\n", texts + 1, (unsigned long)sizeof line);
                return 1;
            }
            line[length++] = (char)byte;
        }
        clock_t begin = clock();
        float probability = seam_probability_of(line, length);
        ticks += (double)(clock() - begin);
        texts++;
        printf("%.9g\n", (double)probability);
    }
    if (timed && texts)
        fprintf(stderr, "%.2f microseconds a text, of %ld texts\n", ticks * 1e6 / CLOCKS_PER_SEC / (double)texts, texts);
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}

#endif
