// The one array behind every simulated memory. Byte 0 of a word is bits 7:0.
//
// A read takes one cycle; of a word that is written in it, by any port, it gives the old value. A rising edge of `load` reads words start .. start+count-1 from the file NAME.load,
// one of `dump` writes them to NAME.dump, both in the simulation's folder; the transfer is over at the next
// falling edge of clk. Starts as garbage drawn from SEED; SEED 0 starts as zeros.
module tessera_storage #(
    parameter NAME = "memory",
    parameter WIDTH = 512,
    parameter DEPTH = 1024,
    parameter ADDRESS = 10,
    parameter PORTS = 1,
    parameter SEED = 1
) (
    input wire clk,
    input wire [PORTS-1:0] read,
    input wire [PORTS*ADDRESS-1:0] read_address,
    output reg [PORTS*WIDTH-1:0] read_data,
    input wire [PORTS-1:0] write,
    input wire [PORTS*ADDRESS-1:0] write_address,
    input wire [PORTS*WIDTH-1:0] write_data,
    input wire load,
    input wire dump,
    input wire [31:0] start,
    input wire [31:0] count
);
    // $fread puts the first byte into the highest bits, so words are kept byte-reversed.
    reg [WIDTH-1:0] words [0:DEPTH-1];

    function automatic [WIDTH-1:0] reversed(input [WIDTH-1:0] word);
        for (int n = 0; n < WIDTH / 8; n++) reversed[8*n +: 8] = word[WIDTH - 8 - 8*n +: 8];
    endfunction

    integer file, n, got;
    reg load_before, dump_before;
    reg [31:0] state;

    initial begin
        load_before = 0;
        dump_before = 0;
        read_data = 0;
        state = SEED;
        for (n = 0; n < DEPTH; n = n + 1) begin
            state = state ^ (state << 13);
            state = state ^ (state >> 17);
            state = state ^ (state << 5);
            words[n] = {(WIDTH / 32){state}};
        end
    end

    always @(posedge clk) begin
        for (int p = 0; p < PORTS; p++) begin
            if (read[p]) read_data[p*WIDTH +: WIDTH] <= reversed(words[read_address[p*ADDRESS +: ADDRESS]]);
            if (write[p]) words[write_address[p*ADDRESS +: ADDRESS]] <= reversed(write_data[p*WIDTH +: WIDTH]);
        end
        load_before <= load;
        dump_before <= dump;
    end

    always @(negedge clk) begin
        if (load && !load_before) begin
            file = $fopen({NAME, ".load"}, "rb");
            if (file == 0) $fatal(1, "%s.load cannot be opened", NAME);
            got = $fread(words, file, start, count);
            $fclose(file);
            if (got != count * (WIDTH / 8)) $fatal(1, "%s.load has %0d bytes, %0d expected", NAME, got, count * (WIDTH / 8));
        end
        if (dump && !dump_before) begin
            file = $fopen({NAME, ".dump"}, "wb");
            for (n = start; n < start + count; n = n + 1) $fwrite(file, "%u", reversed(words[n]));
            $fclose(file);
        end
    end
endmodule
