// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// The demo chain's money: an ERC-20 with EIP-3009 transfers by signature. Worth nothing by design.
/// Written from EIP-20, EIP-712 and EIP-3009. Compiled by scripts/compile-token into token.json.
contract DemoDollar {
    string public constant name = "Demo Dollar";
    string public constant symbol = "DEMO";
    string public constant version = "1";
    uint8 public constant decimals = 6;

    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH =
        keccak256(
            "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
    bytes32 public constant CANCEL_AUTHORIZATION_TYPEHASH =
        keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    // Half of the order of secp256k1: of the two s that sign the same digest only the lower is taken.
    uint256 private constant HALF_ORDER =
        0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// Selector of isValidSignature(bytes32,bytes), and what it answers to a good one (ERC-1271).
    bytes4 private constant ERC1271_MAGIC = 0x1626ba7e;

    address public immutable minter;
    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;
    mapping(address => mapping(bytes32 => bool)) public authorizationState;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

    constructor() {
        minter = msg.sender;
    }

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return
            keccak256(
                abi.encode(
                    keccak256(
                        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                    ),
                    keccak256(bytes(name)),
                    keccak256(bytes(version)),
                    block.chainid,
                    address(this)
                )
            );
    }

    function mint(address to, uint256 value) external returns (bool) {
        require(msg.sender == minter, "DemoDollar: caller is not the minter");
        totalSupply += value;
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
        return true;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        _transfer(msg.sender, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        require(allowed >= value, "DemoDollar: insufficient allowance");
        if (allowed != type(uint256).max) allowance[from][msg.sender] = allowed - value;
        _transfer(from, to, value);
        return true;
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        transferWithAuthorization(
            from,
            to,
            value,
            validAfter,
            validBefore,
            nonce,
            abi.encodePacked(r, s, v)
        );
    }

    /// The form of EIP-3009 as USDC has it since version 2.2: r, s, v in 65 bytes, or whatever the
    /// contract at `from` takes for a signature (ERC-1271).
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) public {
        require(block.timestamp > validAfter, "DemoDollar: authorization is not yet valid");
        require(block.timestamp < validBefore, "DemoDollar: authorization is expired");
        _requireUnused(from, nonce);
        bytes32 content = keccak256(
            abi.encode(
                TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
                from,
                to,
                value,
                validAfter,
                validBefore,
                nonce
            )
        );
        _requireSigned(from, content, signature);
        // Marked before the transfer: a nonce pays once, whatever the transfer does.
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }

    function cancelAuthorization(
        address authorizer,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        _requireUnused(authorizer, nonce);
        _requireSigned(
            authorizer,
            keccak256(abi.encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce)),
            abi.encodePacked(r, s, v)
        );
        authorizationState[authorizer][nonce] = true;
        emit AuthorizationCanceled(authorizer, nonce);
    }

    function _requireUnused(address authorizer, bytes32 nonce) private view {
        require(!authorizationState[authorizer][nonce], "DemoDollar: authorization is used");
    }

    function _requireSigned(
        address signer,
        bytes32 content,
        bytes memory signature
    ) private view {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", DOMAIN_SEPARATOR(), content));
        if (signer.code.length > 0) {
            (bool done, bytes memory answer) = signer.staticcall(
                abi.encodeWithSelector(ERC1271_MAGIC, digest, signature)
            );
            bool agreed = done &&
                answer.length >= 32 &&
                abi.decode(answer, (bytes32)) == bytes32(ERC1271_MAGIC);
            require(agreed, "DemoDollar: invalid signature");
            return;
        }
        require(signature.length == 65, "DemoDollar: invalid signature length");
        bytes32 r;
        bytes32 s;
        assembly {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        uint8 v = uint8(signature[64]);
        require(uint256(s) <= HALF_ORDER, "DemoDollar: invalid signature 's' value");
        require(v == 27 || v == 28, "DemoDollar: invalid signature 'v' value");
        address recovered = ecrecover(digest, v, r, s);
        require(recovered != address(0) && recovered == signer, "DemoDollar: invalid signature");
    }

    function _transfer(address from, address to, uint256 value) private {
        require(to != address(0), "DemoDollar: transfer to the zero address");
        uint256 held = balanceOf[from];
        require(held >= value, "DemoDollar: transfer amount exceeds balance");
        unchecked {
            balanceOf[from] = held - value;
        }
        balanceOf[to] += value;
        emit Transfer(from, to, value);
    }
}
